"""Words that several rooms share: what a stage is, how a file is replaced. Imports no room."""
