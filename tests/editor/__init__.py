"""What an editor makes of the JSON Schema of a spec: run with `nox -s editor`, which installs yaml-language-server."""
