# Two commands do everything: `make serve` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions that are installed: `make serve LOCK=` takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet $(LOCK:%=--constraint %)

.PHONY: help serve test quick wheel lock protos lint fuzz attacks audit sbom pin-base try-image try-python try-aarch64 \
	gpu-check clean

help:
	@echo "make serve   set up, then serve the embedded checkpoints on http://127.0.0.1:8000 (or SCMRL_PORT)"
	@echo "make test    set up, then run all tests"
	@echo "make quick   linters, type checker and the tests that are not slow, in under a minute"
	@echo "make lint    ruff and mypy"
	@echo "make fuzz    tens of thousands of damaged files, events too, then ten thousand good ones"
	@echo "make attacks  latency of good clips beside hostile connections, each kind for a minute and a half"
	@echo "make try-image  build the image and try it, without a Docker engine (.ci/try_image.py)"
	@echo "make try-python  serve a clip and run all tests on clean Debians, Python 3.11 to 3.14 (.ci/try_python.py)"
	@echo "make try-aarch64  resolve the runtime dependencies for 64-bit ARM (.ci/try_aarch64.py)"
	@echo "make gpu-check  ten minutes on a GPU: tests, engine, service, accuracy, starts (.ci/gpu_check.py)"
	@echo "make wheel   a wheel with the embedded checkpoint, in dist/"
	@echo "make lock    write requirements.lock and the image's hashes anew, with the newest versions that pyproject.toml allows; KEEP=1 keeps those that are there"
	@echo "make protos  write the descriptors of service/grpc_api/*.proto"
	@echo "make audit   ask an index of advisories about every version of requirements.lock"
	@echo "make sbom    list the image's packages as CycloneDX: dist/sbom-cpu.json, dist/sbom-cuda.json"
	@echo "make pin-base  write the digest of the image's base into docker/Dockerfile"
	@echo "make clean   remove the virtual environment and caches"

serve: $(VENV)/.serve
	$(BIN)/scmrl serve $(ARGS)

# Processes of tests have one thread each: torch's threads would wait for each other. Tests of the
# service wait for it about half of their time, so there are three for two cores. Each begins with a
# third of the tests in their order (worksteal), so that what a module's tests share is made once.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

# Left out are tests that are marked slow, by themselves or by tests/conftest.py. mypy runs beside the
# tests.
quick: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & mypy=$$!; \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist worksteal \
			--quiet $(ARGS); \
		tests=$$?; wait $$mypy && exit $$tests

wheel: $(VENV)/.setuptools
	@rm -rf build dist/scmrl-*.whl
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation \
		--wheel-dir dist .
	@ls dist/*.whl

# The image's files are hashed, for its Python and every machine, from the versions of the lock.
# requirements.lock itself has no hashes: with one, pip would ask for the hash of the clone, too.
# pip, which pip-audit asks for, stays the one of the virtual environment.
COMPILE = $(BIN)/uv pip compile --quiet --no-annotate --custom-compile-command 'make lock'
HASH = $(COMPILE) --no-deps --generate-hashes --only-binary :all: --constraint requirements.lock \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28

lock: $(VENV)/.dev
	$(COMPILE) $(if $(KEEP),,--upgrade) --universal --python-version 3.11 --extra dev --extra ray \
		--no-emit-package pip --output-file requirements.lock pyproject.toml
	$(HASH) --no-emit-package torch --output-file docker/requirements.txt docker/packages.txt
	grep -E '^(torch|triton|(nvidia|cuda)-[^=]+)==' requirements.lock \
		| $(HASH) --output-file docker/requirements-cuda.txt -

# The descriptors that the service reads; tests compare them with the .proto files.
protos: $(VENV)/.dev
	cd service/grpc_api && $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I . \
		--descriptor_set_out=protos.binpb open_inference.proto health.proto

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make replaces the exit code of audit.py by 2; .ci/run calls it without make.
audit: $(VENV)/.dev
	$(BIN)/python .ci/audit.py $(ARGS)

sbom: $(VENV)/.dev
	$(BIN)/python .ci/sbom.py dist

pin-base:
	$(PYTHON) .ci/pin_base.py

try-image:
	$(PYTHON) .ci/try_image.py $(ARGS)

try-python:
	$(PYTHON) .ci/try_python.py $(ARGS)

try-aarch64: wheel
	$(BIN)/python .ci/try_aarch64.py dist/*.whl

# make replaces the exit code of gpu_check.py by 2: 1 for a part that failed, 3 without a GPU.
gpu-check: $(VENV)/.dev
	$(BIN)/python .ci/gpu_check.py $(ARGS)

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(ARGS)
	$(BIN)/python -m tests.fuzz --events --count 2000
	$(BIN)/python -m tests.fuzz.endurance

attacks: $(VENV)/.dev
	$(BIN)/python -m tests.attacks $(ARGS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# setuptools comes from the lock too: pip would build with the newest there is.
$(VENV)/.setuptools: pyproject.toml $(LOCK) | $(BIN)/python
	$(INSTALL) 'setuptools>=77'
	@touch $@

$(VENV)/.serve: $(VENV)/.setuptools
	@echo "installing the dependencies into $(VENV), torch among them: this takes minutes"
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.setuptools
	@echo "installing the dependencies into $(VENV), torch among them: this takes minutes"
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
