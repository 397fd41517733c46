"""What users write beside the packages: one file for each thing that ARCHITECTURE.md says can be added."""
