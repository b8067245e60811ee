"""A process that has imported and loaded everything, and runs commands in copies of itself.

Importing torch takes longer than finding and answering in a document that is in the library. Where
`cca warm start` has left such a process, `cca ask`, `cca ingest` and `cca summarise` hand it their
command line, their streams, folder and environment; it forks, and the copy is the command.
"""
