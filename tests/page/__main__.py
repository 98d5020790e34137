"""The server's page in a real browser, with pictures to look at.

    python -m tests.page --pictures=runs/page

Two streams side by side, an adapter that is not there, and a connection that is lost. Needs
Debian's Chromium.
"""

import argparse
from pathlib import Path

from tests import parts
from tests.page.chromium import Chromium
from tests.tera_jax.serve.http.fake import FakeEngine, serving

_STATES = "[0, 1].map((side) => document.getElementById(`{}-${{side}}`).textContent)"
_ERRORS, _SAID = _STATES.format("error"), _STATES.format("state")
_TALKS = "[0, 1].map((side) => document.querySelectorAll(`#talk-${side} .turn`).length)"
_ANSWERS = (
    "[0, 1].map((side) => [...document.querySelectorAll(`#talk-${side} .assistant span`)]"
    ".map((answer) => answer.textContent))"
)
_POLICY = (
    "new Promise((tell) => { document.addEventListener('securitypolicyviolation', "
    "(event) => tell(event.effectiveDirective)); fetch('https://example.org').catch(() => 0); })"
)
_SEND = "document.getElementById('send').click()"
_FREE = "!document.getElementById('send').disabled"
_TEXTS = {
    "ana": "the red sun over the sea at night, and a cat saw it.",
    "ben": "a dog saw the blue sea; one, two suns.",
}


def check(pictures: Path) -> None:
    """Use the page, and write what is seen.

    Raises:
        AssertionError: where the page shows something else.
        TimeoutError: where it shows nothing.
    """
    tokenizer = parts.small_tokenizer()
    engine = FakeEngine(len(tokenizer), pause=0.05)

    def replies(request: object, _: int) -> list[int]:
        return list(tokenizer(_TEXTS[request.adapter], add_special_tokens=False)["input_ids"])

    engine.replies = replies
    with serving(engine, tokenizer) as (address, server), Chromium() as page:
        page.open(address)
        page.wait("document.getElementById('server').textContent.includes('serves base')")
        names = "[0, 1].map((side) => document.getElementById(`model-${side}`).value)"
        assert page.run(names) == ["ana", "ben"]
        assert page.run(_POLICY) == "connect-src"
        page.type("prompt", "What is red?")
        page.run(_SEND)
        page.wait(f"{_ANSWERS}.every((side) => side[0]?.length > 10)")
        assert page.run(_SAID) == ["Answering…"] * 2  # both go on
        page.picture(pictures / "1-streams.png")
        page.wait(_FREE)
        assert page.run(_ANSWERS) == [[_TEXTS["ana"]], [_TEXTS["ben"]]]
        assert page.run(_ERRORS) == ["", ""]
        page.picture(pictures / "2-answers.png")

        page.type("model-1", "zoe")
        page.type("prompt", "And blue?")
        page.run(_SEND)
        page.wait(f"{_ERRORS}[1].includes(\"'zoe' does not exist\")")
        page.wait(_FREE)
        assert page.run(_ERRORS)[0] == ""
        assert page.run(_TALKS) == [4, 3]
        page.picture(pictures / "3-unknown-adapter.png")

        page.type("model-1", "ben")
        page.type("prompt", "Once more?")
        page.run(_SEND)
        page.wait(f"{_ANSWERS}.every((side) => side.at(-1).length > 5)")
        server.servers[0].get_loop().call_soon_threadsafe(_cut, server)
        page.wait(f"{_ERRORS}.every((text) => text.includes('connection was lost'))")
        page.wait(_FREE)
        page.picture(pictures / "4-lost-connection.png")


def _cut(server: object) -> None:
    """Close every connection at once, as a machine that fails does."""
    for connection in [*server.server_state.connections]:
        connection.transport.abort()


def main() -> None:
    """Check the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.page", description=__doc__)
    parser.add_argument("--pictures", type=Path, default=Path("runs/page"), help="a directory")
    args = parser.parse_args()
    args.pictures.mkdir(parents=True, exist_ok=True)
    check(args.pictures)
    print(f"the page shows what it should; its pictures are in {args.pictures}")


if __name__ == "__main__":
    main()
