"""Compute the matrices from Gaia XP coefficients to a spectrum with GaiaXPy and write them as one small file.

Run once by hand (needs the `dev` extra): `.venv/bin/python tools/build_xp_table.py`. It writes engine/xp.npz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gaiaxpy.core.config import load_xpmerge_from_xml, load_xpsampling_from_xml

OUT = Path(__file__).resolve().parents[1] / "engine" / "xp.npz"
W_M2_NM = 1e19  # in units of 1e-17 erg / (s cm2 Angstrom): 1 W / m2 / nm = 1e7 erg/s / 1e4 cm2 / 10 A


def main() -> None:
    grid, merge = load_xpmerge_from_xml()
    design = load_xpsampling_from_xml()
    table = {"wavelength": np.asarray(grid, np.float64) * 10}
    for arm in ("bp", "rp"):
        share = np.asarray(merge[arm], np.float64)
        table[f"{arm}_share"] = share.astype(np.float32)
        table[arm] = (np.asarray(design[arm], np.float64) * share * W_M2_NM).astype(np.float32)
    np.savez_compressed(OUT, **table)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} kB; " + ", ".join(f"{k} {v.shape}" for k, v in table.items()))


if __name__ == "__main__":
    main()
