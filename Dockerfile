# Searches a gallery, and serves it to browsers, with ONNX graphs. There is no torch in the image. Build it in a folder with
# the exported model (TOKEN is yours to choose: `openssl rand -hex 16` prints one):
#
#   cada export cada_procedural own model/ --format onnx && pip wheel --no-deps --wheel-dir dist .
#   docker build -t cada-search .
#   docker run --rm -v "$PWD/crops:/crops" -v "$PWD/gallery:/gallery" cada-search \
#       index /crops --gallery /gallery --config /model
#   docker run --rm -p 8000:8000 -v "$PWD/crops:/crops" -v "$PWD/gallery:/gallery" -e CADA_TOKEN="$TOKEN" cada-search
FROM python:3.12-slim
RUN pip install --no-cache-dir onnxruntime tokenizers pillow numpy safetensors tqdm lancedb fastapi uvicorn python-multipart
COPY dist/*.whl /tmp/
# --no-deps: the wheel's dependencies are those of training, torch among them
RUN pip install --no-cache-dir --no-deps /tmp/*.whl && rm /tmp/*.whl
COPY model /model
ENTRYPOINT ["cada"]
CMD ["serve", "/gallery", "--host", "0.0.0.0"]
