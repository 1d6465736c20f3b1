# The program on a CPU:
#   docker build --tag pipeline .
#   docker run --rm --user "$(id -u)" --volume "$PWD:/data" pipeline certify model.onnx --data npz:test.npz --eps 2/255
FROM python:3.12-slim AS build
RUN python -m venv /opt/pipeline
ENV PATH=/opt/pipeline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A layer of its own, which a change of the program does not build again; torch without CUDA is a tenth of the size.
RUN pip install --index-url https://download.pytorch.org/whl/cpu "torch>=2.7"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pipeline ./pipeline
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu .

FROM python:3.12-slim
COPY --from=build /opt/pipeline /opt/pipeline
# Keys and caches go below HOME, which whatever user the container is given may write to.
ENV PATH=/opt/pipeline/bin:$PATH HOME=/tmp/home ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home pipeline && mkdir --mode 1777 /tmp/home /data
USER 10001
WORKDIR /data
ENTRYPOINT ["pipeline"]
CMD ["--help"]
