"""What crosses between server and clients: messages, tensors, parts by content, updates on disk."""
