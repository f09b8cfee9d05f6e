"""What bench/model_download.py is made of: servers, clients, peers, and a model's files."""
