# hasten serve on a CPU: docker build -t hasten . && docker run -p 127.0.0.1:8000:8000 -e HASTEN_TOKEN=... hasten
FROM python:3.12-slim
RUN useradd --create-home hasten
WORKDIR /opt/hasten
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir ".[serve,openvino]"
USER hasten
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["hasten", "serve", "--host", "0.0.0.0"]
CMD ["builtin:shapes"]
