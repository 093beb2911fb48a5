"""Search a gallery in the browser, or by its JSON API.

cada serve gallery/
cada serve gallery/ --port 9000
cada serve gallery/ --host 0.0.0.0 --token SECRET     (other machines of the network)

The page and the API serve this machine alone, unless --host names another address; that needs a token, which CADA_TOKEN
in the environment can hold as well. Pictures are shown by the ids of the gallery, and nothing else of the disk is. The
traffic is not encrypted: across a network that you do not trust, put a proxy with TLS before it. Ctrl-C ends it.
"""

import argparse

from cada_plugin.cli.running import run_command
from cada_plugin.gallery import Gallery
from cada_plugin.serve.running import check_address, listen, serve, token_of


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gallery", help="what `cada index` made: a folder, or the address of a collection")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    parser.add_argument("--token", help="what every client must send")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    token = token_of(args.token)
    check_address(args.host, token)
    with listen(args.host, args.port) as sock:
        gallery = Gallery.open(args.gallery, device=args.device)
        serve(gallery, sock, token, lambda address: print(f"{len(gallery):,} images: {address}", flush=True))
