"""The commands, one a file: parse, call the library, print."""
