"""Generated from ../protos by protoc; not to be edited."""
