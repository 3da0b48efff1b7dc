"""What training, search and reports keep on disk: whole files, locks, settings, and what is built once."""
