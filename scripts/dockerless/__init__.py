"""A Dockerfile built, and a compose file's services run, where there is no Docker. The command: scripts/check_docker.py."""
