"""A finished run in neuroglancer in a real browser. What it showed is kept in build/screenshots."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from five_balls import flysoma
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from flysoma.analysis.viewer.browser import find_browser, open_browser
from flysoma.analysis.viewer.server import ViewServer
from flysoma.tasks.results.viewing import view_state
from flysoma.tasks.run import Run

SHOWN = Path(__file__).parents[2] / "build/screenshots"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None, reason="chromium and chromedriver are not installed"
    ),
]


@pytest.fixture(autouse=True)
def folder():
    SHOWN.mkdir(parents=True, exist_ok=True)


def test_a_run_is_drawn_by_a_browser(undisturbed):
    done = flysoma("view", str(undisturbed), "--screenshot", str(SHOWN / "view.png"))
    assert done.returncode == 0, done.stderr  # a mesh that is not there would be waited for
    assert (SHOWN / "view.png").stat().st_size > 20_000


def _details(driver):
    """What the panel says of the place that was clicked, once it names a soma."""
    panels = driver.find_elements(By.CLASS_NAME, "neuroglancer-selection-details-body")
    text = " ".join(panel.text for panel in panels)
    return "soma" in text and text


def _coloured(driver, panel):
    """Share of coloured pixels in the middle of a panel."""
    shown = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    x, y = (panel.rect[a] + panel.rect[n] / 2 for a, n in (("x", "width"), ("y", "height")))
    middle = np.asarray(shown.crop((x - 30, y - 30, x + 30, y + 30)), int)
    return (np.ptp(middle, axis=2) > 40).mean()


@pytest.mark.parametrize("form", ["--unsharded", "--sharded"])
def test_a_soma_that_is_clicked_shows_its_properties_and_its_mesh(undisturbed, tmp_path, form):
    assert flysoma("publish", str(undisturbed), str(tmp_path / "run"), form).returncode == 0
    run = Run.open(str(tmp_path / "run"))
    soma = pd.read_parquet(tmp_path / "run/tables/somas.parquet").iloc[2]
    at = tuple(soma[[f"{a}_nm" for a in "xyz"]])
    with ViewServer() as server, open_browser((1200, 900)) as driver:
        state = view_state(run, server.add, at)
        layers = {layer["name"]: layer for layer in state["layers"]}
        layers["somas"]["segments"] = [str(soma["id"])]
        layers["centroids"]["visible"] = False  # only a mesh has colour then
        viewer = server.open(state)
        driver.get(viewer.get_viewer_url())
        viewer.screenshot()  # once all is there
        panels = driver.find_elements(By.CLASS_NAME, "neuroglancer-rendered-data-panel")
        assert _coloured(driver, panels[2]) > 0.8
        there = ActionChains(driver).move_to_element(panels[0]).pause(0.5)
        there.key_down(Keys.CONTROL).context_click(panels[0]).key_up(Keys.CONTROL).perform()
        details = WebDriverWait(driver, 30).until(_details)
        driver.save_screenshot(str(SHOWN / f"clicked{form}.png"))
        said = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    assert not [line for line in said if "favicon" not in line["message"]]
    assert f"soma {soma['id']}, {soma['equivalent_diameter_um']:.1f} um" in details
    assert f"nearest_nm\n{soma['nearest_nm']:.0f}" in details  # what differs among these somas
