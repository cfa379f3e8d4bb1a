# Each target is a line: `python3 -m helpers …` does the work, and does it without make as well.
# The first call sets up .venv; which Python it is made with: make run PYTHON=python3.12
PYTHON ?= python3

.PHONY: run test lab bench clean
.DEFAULT_GOAL := run

run:    ## every notebook, in order, in a private sandbox; leaves runs/latest/
	@$(PYTHON) -m helpers run

test:   ## style, then all tests
	@$(PYTHON) -m helpers test

lab:    ## JupyterLab on your own copies of the notebooks, in work/
	@$(PYTHON) -m helpers lab

bench:  ## how fast all of it is here; leaves runs/bench.json
	@$(PYTHON) -m helpers bench

clean:  ## stop the sandboxes of this checkout, remove what runs made; work/ stays
	@$(PYTHON) -m helpers clean
