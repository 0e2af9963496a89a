# hasten serve on a CPU: docker build -t hasten . && docker run -p 127.0.0.1:8000:8000 -e HASTEN_TOKEN=... hasten
# torch comes with CUDA by default. For the smaller build without it, name the index that has one:
# --build-arg PIP_ARGS="--extra-index-url URL"
FROM python:3.12-slim
RUN useradd --create-home hasten
ARG PIP_ARGS=""
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install --no-cache-dir ${PIP_ARGS} -c constraints.txt ".[serve,openvino]"
USER hasten
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["hasten", "serve", "--host", "0.0.0.0"]
CMD ["builtin:shapes"]
