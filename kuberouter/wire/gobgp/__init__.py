"""GoBGP over gRPC: one small interface, one encoder per version of its API."""
