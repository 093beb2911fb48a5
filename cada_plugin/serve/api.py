"""The JSON API of a gallery, as a FastAPI application, with the page beside it.

Searches run in threads: those of stage 1 in one pool, re-ranked ones in another, pictures in a third. So first results
come while others wait for their re-ranking. ``/openapi.json`` describes the API to programs, ``/api.html`` to people.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from PIL import Image

from cada_plugin import __version__
from cada_plugin.errors import CADAError, ConfigError, GalleryError, ImageError, needs_extra
from cada_plugin.gallery import Gallery
from cada_plugin.portable.pictures import decode_person_image
from cada_plugin.serve.guard import COOKIE, LOGIN, UPLOAD, Guard, same_token
from cada_plugin.serve.pools import Pool
from cada_plugin.serve.schema import (
    MAX_PICTURES,
    ROW_ID,
    ExplainAnswer,
    ExplainRequest,
    GalleryAnswer,
    Reason,
    SearchAnswer,
    SearchRequest,
    caption_answer,
    hit_answer,
)
from cada_plugin.serve.thumbnails import NoImageError, Pictures

with needs_extra("serve"):
    import python_multipart  # noqa: F401  FastAPI needs it, and would not name our extra
    from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
    from fastapi import Path as InPath
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from pydantic import BaseModel, ValidationError

MAX_UPLOAD_PIXELS = 16_000_000
"""Of one uploaded picture, from the header, before it is decoded."""
_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/api.html": ("api.html", "text/html; charset=utf-8"),
    "/api.js": ("api.js", "text/javascript; charset=utf-8"),
}
_FEW_VALUES = 30  # a column with more values is no list to choose from
_REFUSALS = {
    400: {"model": Reason, "description": "The search is impossible"},
    401: {"model": Reason, "description": "The token is missing or wrong"},
    404: {"model": Reason, "description": "There is no such image"},
    413: {"model": Reason, "description": "The request is too large"},
    422: {"model": Reason, "description": "A field is missing or wrong"},
}
ImageId = Annotated[str, InPath(pattern=ROW_ID, description="`id` of a hit")]


class Login(BaseModel):
    token: str


def create_app(gallery: Gallery, token: str | None = None) -> FastAPI:
    """The application for a gallery.

    Args:
        token: what every client must send, as a header or, after a login, as a cookie. With None the application
            answers only requests to 127.0.0.1 and localhost.
    """
    app = FastAPI(
        title="cada_plugin gallery",
        version=__version__,
        description="Search pictures of people by sentences.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        responses={code: _REFUSALS[code] for code in (401, 422)},
    )
    app.add_middleware(Guard, token=token)
    _explain_errors(app)
    pictures, facts = Pictures(gallery), _Facts(gallery)
    cores = os.cpu_count() or 1
    first, final, drawing = Pool("first", max(2, cores)), Pool("final", max(2, cores // 2)), Pool("pictures", 2)

    def search(query: SearchRequest, uploads: Sequence[tuple[str, bytes]]) -> SearchAnswer:
        like: list[Image.Image | str] = [
            decode_person_image(content, name, MAX_UPLOAD_PIXELS) for name, content in uploads
        ]
        like += [str(pictures.path(one)) for one in query.like]
        try:
            hits = gallery.search(query.query(like))
        except GalleryError:
            for one in (*query.right, *query.wrong):  # the client's mistake, or the gallery's
                pictures.row_now(one)
            raise
        page = hits[query.offset : query.last]
        pictures.remember(hit.row for hit in page)
        return SearchAnswer(
            hits=[hit_answer(hit) for hit in page], stage=query.stage, more=len(hits) > query.last > query.offset
        )

    async def run(request: Request, query: SearchRequest, uploads: Sequence[tuple[str, bytes]] = ()) -> SearchAnswer:
        return await (first if query.stage == "first" else final).run(request, search, query, uploads)

    @app.post("/api/search", responses=_REFUSALS)
    async def search_by_sentences(request: Request, query: SearchRequest) -> SearchAnswer:
        """Search by sentences, by images of the gallery, or both."""
        return await run(request, query)

    @app.post(UPLOAD, responses=_REFUSALS)
    async def search_by_picture(
        request: Request,
        picture: Annotated[list[UploadFile], File(description=f"1 to {MAX_PICTURES} pictures of one person")],
        query: Annotated[str, Form(description="the body of /api/search, as JSON")] = "{}",
    ) -> SearchAnswer:
        """Search by uploaded pictures, together with anything that /api/search takes."""
        if len(picture) > MAX_PICTURES:
            raise HTTPException(422, f"{len(picture)} pictures: send at most {MAX_PICTURES}")
        try:
            parsed = SearchRequest.model_validate_json(query)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        uploads = [(f"picture {place}", await one.read()) for place, one in enumerate(picture, 1)]
        return await run(request, parsed, uploads)

    def explain(asked: ExplainRequest) -> ExplainAnswer:
        pictures.path(asked.id)  # raises if there is no such image: the client's mistake, not the gallery's
        try:
            explanations = gallery.explain(asked.query(), asked.id)
        except ImageError as error:  # its message names a path, which is nobody's business
            raise NoImageError(f"the picture of {asked.id} cannot be read any more: index again") from error
        return ExplainAnswer(captions=[caption_answer(one) for one in explanations])

    @app.post("/api/explain", responses=_REFUSALS)
    async def explain_a_hit(request: Request, asked: ExplainRequest) -> ExplainAnswer:
        """Which phrases of the sentences speak for an image, and where in it the model looks for each."""
        return await final.run(request, explain, asked)

    @app.get("/api/gallery")
    async def about_the_gallery(request: Request) -> GalleryAnswer:
        """What can be searched, and by what."""
        return await drawing.run(request, facts.read)

    def picture_route(path: str, read: Callable[[str], bytes], what: str) -> None:
        @app.get(path, response_class=Response, responses={404: _REFUSALS[404], 200: {"content": {"image/jpeg": {}}}})
        async def picture_of(request: Request, id: ImageId) -> Response:
            content = await drawing.run(request, read, id)
            # private: a cache between browser and server must not show pictures to somebody without the token
            return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

        picture_of.__doc__ = what

    picture_route("/api/images/{id}", pictures.large, "An image of the gallery as JPEG, at most 2048 pixels long.")
    picture_route("/api/thumbnails/{id}", pictures.thumbnail, "A small JPEG of an image of the gallery.")

    @app.post(LOGIN, status_code=204)
    async def log_in(login: Login) -> Response:
        """Exchange the token for a cookie, which scripts cannot read."""
        if token is not None and not same_token(login.token, token):
            raise HTTPException(401, "this is not the token that the server was started with")
        answer = Response(status_code=204)
        if token is not None:
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return answer

    for place, (name, media_type) in _FILES.items():
        _serve_file(app, place, (_STATIC / name).read_bytes(), media_type)
    return app


class _Facts:
    """Cameras and columns, read from all rows when the number of images changes: that takes a second per 100,000."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery, self._lock, self._known = gallery, threading.Lock(), None

    def read(self) -> GalleryAnswer:
        with self._lock:
            images = len(self._gallery)
            if self._known is None or self._known.images != images:
                self._known = self._read(images)
            return self._known

    def _read(self, images: int) -> GalleryAnswer:
        cameras: set[str] = set()
        columns: dict[str, set[str]] = {}
        for row in self._gallery.store.rows():
            cameras.add(row.camera)
            for name, value in row.columns.items():
                values = columns.setdefault(name, set())
                if len(values) <= _FEW_VALUES:
                    values.add(value)
        retriever = self._gallery.retriever
        return GalleryAnswer(
            images=images,
            cameras=sorted(cameras - {""}),
            columns={name: sorted(few) for name, few in sorted(columns.items()) if len(few) <= _FEW_VALUES},
            model=retriever.fingerprint(),
            calibrated=self._gallery.calibrated,
            reranks=self._gallery.reranks,
            explains=retriever.can_match,
        )


def _serve_file(app: FastAPI, place: str, content: bytes, media_type: str) -> None:
    @app.get(place, include_in_schema=False)
    async def static_file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})


def _explain_errors(app: FastAPI) -> None:
    """Every refusal has one form: ``{"detail": reason}``. The request is not repeated in it."""

    def answer(status: int, reason: str) -> JSONResponse:
        return JSONResponse({"detail": reason}, status)

    @app.exception_handler(RequestValidationError)
    async def wrong_field(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "; ".join(_told(one) for one in error.errors()[:5]))

    statuses: list[tuple[type[CADAError], int]] = [
        (NoImageError, 404),
        (ImageError, 400),
        (ConfigError, 400),
        (GalleryError, 503),
    ]
    for kind, status in statuses:
        # the closure's default binds the status of this round
        async def refuse(_: Request, error: Exception, status: int = status) -> JSONResponse:
            return answer(status, str(error))

        app.add_exception_handler(kind, refuse)


def _told(error: dict) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "path", "query"))
    return f"{where or 'the request'}: {error['msg']}".encode("utf-8", "backslashreplace").decode()
