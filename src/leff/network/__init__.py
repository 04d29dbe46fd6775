"""The server's side of the network: certificates, grants, the part store, the processes it runs."""
