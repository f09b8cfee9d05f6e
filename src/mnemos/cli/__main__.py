"""`python -m mnemos.cli` is `mnemos`."""

from .main import main

if __name__ == "__main__":
    main()
