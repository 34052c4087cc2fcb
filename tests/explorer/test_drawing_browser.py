"""What is drawn on the card's canvases, read from them: axes that say the truth, however large the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import card_sky
import pytest
from card_page import Visit, server, visit

pytestmark = pytest.mark.browser
LOADED = "omnisky.card.view?.flux?.length === 7781"
DRAWN = """factor => { // with fluxes so many times as large: [text, left, right, turned] of all that is written
    const v = omnisky.card.view, all = new Float32Array(4 * v.wave.length), n = v.wave.length;
    all.set(v.wave); all.set(v.flux.map(f => f * factor), n);
    const texts = [], context = CanvasRenderingContext2D.prototype, write = context.fillText;
    context.fillText = function (text, x, y, ...more) {
        const w = this.measureText(text).width, left = x - { left: 0, center: 0.5, right: 1 }[this.textAlign] * w;
        texts.push([text, left, left + w, this.getTransform().b !== 0]); write.call(this, text, x, y, ...more); };
    const kept = [v.flux, v.sigma, v.bad, v.about];
    v.load(all.buffer, { ...v.about, unit: "erg s⁻¹ cm⁻² Å⁻¹" });
    context.fillText = write;
    const limits = v.limitsWith(v.fluxLimits(0, n), ...v.range), most = v.shown.reduce((a, b) => Math.max(a, b));
    [v.flux, v.sigma, v.bad, v.about] = kept; v.setSmooth(3);
    return { texts, share: most / (limits[1] - limits[0]) }; }"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    sky = card_sky.build(tmp_path_factory.mktemp("card") / "card.sky")
    with server(sky) as address, visit(address) as made:
        made.page.set_default_timeout(60_000)
        yield made
        assert made.trouble == []


def labels_of(drawn: dict[str, Any]) -> list[str]:
    """What stands at the axis of the fluxes."""
    return [text for text, _, right, turned in drawn["texts"] if abs(right - 42) < 0.1 and not turned]


@pytest.mark.parametrize(("factor", "labels", "axis"), [
    (1, ["0", "2", "4", "6"], "erg s⁻¹ cm⁻² Å⁻¹"), (2e-17, ["0.0", "0.5", "1.0"], "10⁻¹⁶ × erg s⁻¹ cm⁻² Å⁻¹"),
    (1e-30, ["0", "2", "4", "6"], "10⁻³⁰ × erg s⁻¹ cm⁻² Å⁻¹"), (4000, ["0", "1", "2"], "10⁴ × erg s⁻¹ cm⁻² Å⁻¹")])
def test_a_spectrum_fills_its_frame_and_its_axis_is_true(seen: Visit, factor: float, labels: list[str], axis: str) -> None:
    seen.open("galaxy-05")
    seen.page.wait_for_function(LOADED)
    drawn = seen.page.evaluate(DRAWN, factor)
    assert 0.8 < drawn["share"] < 2
    assert labels_of(drawn) == labels
    assert axis in [text for text, _, _, turned in drawn["texts"] if turned]
    assert min(left for _, left, right, turned in drawn["texts"] if not turned and abs(right - 42) < 0.1) > 16, "the unit"


def test_ticks_that_are_close_are_told_apart(seen: Visit) -> None:
    seen.open("galaxy-05")
    seen.page.wait_for_function(LOADED)
    seen.page.evaluate("omnisky.card.view.keep([6000, 6020])")
    texts = seen.page.evaluate("""() => { const v = omnisky.card.view, out = [], c = v.canvas.getContext("2d");
        c.fillText = text => out.push(text); v.draw(); delete c.fillText; return out; }""")
    rest = texts[texts.index("observed wavelength, vacuum (Å)") + 1 : texts.index("rest")]
    assert len(rest) == len(set(rest)) > 4
