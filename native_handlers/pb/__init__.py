"""Generated protobuf messages (``*_pb2``) and, in ``methods``, the RPCs they belong to. No logic of ours."""
