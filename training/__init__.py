"""How the embedded model was made: from data to artefact in one command, `python -m training small --out DIR`."""
