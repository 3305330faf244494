"""What all figures share."""

from __future__ import annotations

# Colours that stay apart for colour-blind readers (Okabe & Ito 2008), then others.
COLOURS = (
    "#999999",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#0072B2",
    "#D55E00",
    "#F0E442",
    "#000000",
    "#8C6D46",
)
