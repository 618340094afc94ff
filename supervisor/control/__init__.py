"""The metrics port for operators. It is off the data path and decides nothing about routes."""
