"""`mnemos run`: a file of prompts in, a file of answers out, every id exactly once."""
