"""The inside of the composition root: how the parts of one server are made and wired. For `supervisor.app`."""
