# The engine, the gateway and the command line in one image: `docker build -t millrace .`
FROM python:3.11-slim

# Which extras to install: "runtimes" and "onnx" for models in this process, "explain" for explainers, "" for models on other
# servers only.
ARG EXTRAS=runtimes,onnx,explain

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 10001 millrace
WORKDIR /app

COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY engine engine
RUN pip install -c constraints.txt ".${EXTRAS:+[${EXTRAS}]}"

COPY pipelines pipelines
# The sample model is trained here where the host has not done so (`make setup`) and the extra is there to do it.
RUN case ",${EXTRAS}," in *,runtimes,*) test -f pipelines/iris/model.joblib || python pipelines/train_iris.py ;; esac

USER millrace
EXPOSE 9000
ENTRYPOINT ["seldon"]
CMD ["--help"]
