"""What several rooms share and no room owns: stages, replacing files, memory, hardware and more. Imports no room."""
