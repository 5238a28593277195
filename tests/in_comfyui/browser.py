"""Opens ComfyUI's real frontend in headless Chromium, for tests that use it as people do.

Needs a Chromium or Chrome on the path (or named by $CHROMIUM_PATH) and the `playwright` package, which drives it; the
browsers that playwright can download are not needed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .server import ComfyServer

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000
"""Milliseconds that anything in the page may take: the frontend is large, and test machines are busy."""


def chromium() -> str | None:
    """Path of the browser, if there is one."""
    named = os.environ.get("CHROMIUM_PATH")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


def missing() -> str | None:
    """What a browser test lacks here, in words; None if it can run."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the `playwright` package is not installed (pip install playwright)"
    return None if chromium() else "no Chromium on the path ($CHROMIUM_PATH names one)"


class Frontend:
    """A page with ComfyUI's frontend loaded. `errors` are the exceptions that nobody caught, so far."""

    def __init__(self, page: Page, server: ComfyServer) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        """Load the frontend anew and wait until nodes can be placed."""
        self.page.goto(self.server.url)
        ready = "window.comfyAPI?.app?.app?.extensionManager?.workflow?.activeWorkflow?.changeTracker"
        self.page.wait_for_function(ready)
        self.page.wait_for_function("!document.querySelector('#splash-loader, .p-blockui-mask')")

    def js(self, body: str, argument: Any = None) -> Any:
        """Run the body of an async function that gets `app`, `LiteGraph` and `given` (= argument); its result."""
        names = "const {app} = window.comfyAPI.app, {LiteGraph} = window;"
        return self.page.evaluate(f"async (given) => {{ {names} {body} }}", argument)

    def clear(self) -> None:
        """An empty graph at scale 1."""
        self.js(
            """
            await app.loadGraphData({last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], config: {},
                                     extra: {}, version: 0.4});
            app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true);
            """
        )

    def setting(self, name: str, value: Any) -> None:
        """Change one of the frontend's settings, as its dialog does."""
        self.js("await app.extensionManager.setting.set(given[0], given[1])", [name, value])

    def settle(self) -> None:
        """Wait until what was changed is drawn and the change tracker has looked."""
        self.js("for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame)")
        self.page.wait_for_timeout(80)

    def shot(self, name: str) -> None:
        """Save a picture of the page as `name`.png in the folder that $ANCHORSHOT_SHOTS names, if it does."""
        folder = os.environ.get("ANCHORSHOT_SHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@contextmanager
def opened(server: ComfyServer, *, width: int = 1280, height: int = 800) -> Iterator[Frontend]:
    """The frontend of `server` in a browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=_FLAGS, timeout=PATIENCE)
        try:
            frontend = Frontend(browser.new_page(viewport={"width": width, "height": height}), server)
            frontend.setting("Comfy.VueNodes.Enabled", False)  # the server keeps what an earlier browser has set
            yield frontend
        finally:
            browser.close()
