"""The rows that the Query RPC selects from JSON documents. Pure: bytes in, bytes out."""
