# docker build -t reckoner . && docker run -v "$PWD/runs:/home/reckoner/runs" reckoner
# Another verb: docker run ... reckoner reckon study --preset demo
# A GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t reckoner-cuda . && docker run --gpus all ...
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -r /var/lib/apt/lists/*
RUN useradd --create-home reckoner
WORKDIR /home/reckoner
COPY constraints.txt requirements.txt /tmp/
# As `make setup`: all but torch is checked against its hash. What only the tests need is left out.
RUN awk '/^[a-z]/ { skip = /^(torch|triton|nvidia|cuda|mypy|ruff|playwright|pytest|statsmodels)/ } !skip' /tmp/requirements.txt \
    > /tmp/hashed.txt && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/hashed.txt
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" -c /tmp/constraints.txt "$(grep '^torch==' /tmp/constraints.txt)"
COPY . /tmp/source
RUN pip install --no-cache-dir --no-deps --no-build-isolation /tmp/source && mv /tmp/source/Makefile . && rm -r /tmp/source
USER reckoner
# The packages are installed, so nothing is to be made ready
CMD ["make", "study", "VENV=/usr/local", "READY="]
