"""The inside of the composition root: makes and wires the parts of one server. `supervisor.app` uses it."""
