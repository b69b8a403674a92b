//! The service as its users meet it: programs, gRPC, and the rules that the tree keeps.
