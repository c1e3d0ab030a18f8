# docker build -t reckoner . && docker run -v "$PWD/runs:/home/reckoner/runs" reckoner study --preset demo
# A GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t reckoner-cuda . && docker run --gpus all ...
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN useradd --create-home reckoner
WORKDIR /home/reckoner
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/constraints.txt)"
COPY . /tmp/source
RUN pip install --no-cache-dir -c /tmp/constraints.txt "/tmp/source[lab]" && rm -r /tmp/source
USER reckoner
ENTRYPOINT ["reckon"]
CMD ["study"]
