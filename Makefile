# Each target is a line: `python3 -m helpers …` does the work, and does it without make as well.
# The first call sets up .venv; which Python it is made with: make run PYTHON=python3.12
PYTHON ?= python3

.PHONY: run test lab clean
.DEFAULT_GOAL := run

run:    ## every notebook, in order, in a private sandbox; leaves runs/latest/
	@$(PYTHON) -m helpers run

test:   ## style, then all tests
	@$(PYTHON) -m helpers test

lab:    ## JupyterLab on the notebooks
	@$(PYTHON) -m helpers lab

clean:  ## stop the sandboxes of this checkout, remove what runs made
	@$(PYTHON) -m helpers clean
