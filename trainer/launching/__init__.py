"""A config becomes a job of a scheduler: files for Slurm, Kubernetes and Docker Compose."""
