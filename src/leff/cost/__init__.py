"""What a client's round takes, counted before anything runs: bytes held and sent, operations."""
