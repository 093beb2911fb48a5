# Searches a gallery with ONNX graphs. There is no torch in the image. Build it in a folder with the exported model:
#
#   cada export cada_procedural start model/ --format onnx && pip wheel --no-deps --wheel-dir dist .
#   docker build -t cada-search .
#   docker run --rm -v "$PWD/crops:/crops" -v "$PWD/gallery:/gallery" cada-search \
#       index /crops --gallery /gallery --config /model
#   docker run --rm -v "$PWD/crops:/crops" -v "$PWD/gallery:/gallery" cada-search \
#       search /gallery "a woman in a red coat with a black backpack"
FROM python:3.12-slim
RUN pip install --no-cache-dir onnxruntime tokenizers pillow numpy safetensors tqdm lancedb
COPY dist/*.whl /tmp/
# --no-deps: the wheel's dependencies are those of training, torch among them
RUN pip install --no-cache-dir --no-deps /tmp/*.whl && rm /tmp/*.whl
COPY model /model
ENTRYPOINT ["cada"]
CMD ["search", "--help"]
