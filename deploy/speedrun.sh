#!/usr/bin/env bash
# From an empty folder to the open app: codecs, tokens of the simulated sky, the transformer, its head and calibration, the page.
# Run it again and it goes on where it stopped; every stage keeps checkpoints.
#
#   deploy/speedrun.sh [FOLDER]            a day and a half on two cores; STEPS=... for less
#   GPU=1 deploy/speedrun.sh [FOLDER]      half an hour on one GPU; the shipped model was trained on from there
#   RECIPE=tiny OBJECTS=1000 STEPS=60 deploy/speedrun.sh try    ten minutes: to see every stage run
#
# With fewer than 1,000 OBJECTS there is neither head nor calibration. On a GPU the plan says how many objects and steps.
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

OUT=${1:-runs/speedrun}
RECIPE=${RECIPE:-small}     # of the transformer: tiny, small, base, ...
CODECS=$([ "$RECIPE" = tiny ] && echo tiny || echo demo)
OBJECTS=${OBJECTS:-50000}   # of the simulated sky whose tokens are trained on
OMNISKY=${OMNISKY:-omnisky}
# glibc would give large blocks back to the system after each use and fetch them anew: a third of a step on a CPU.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=200000000

codec() { "$OMNISKY" train codec "$1" --recipe "$CODECS" --out "$OUT/codecs"; }

if [ -n "${GPU:-}" ]; then
    PLAN=$([ "$RECIPE" = tiny ] && echo tiny || echo gpu)
    until python -m engine.train.stages "$OUT" "$OUT/kept" --plan "$PLAN"; do [ $? = 3 ]; done  # 3: time is over, go on
else
    # Two at a time, a thread each.
    codec image & image=$!
    codec spectrum
    codec segmap
    codec scalars
    wait "$image"

    TOKENS=$OUT/tokens
    "$OMNISKY" train tokens "$TOKENS" --codecs "$OUT/codecs" --objects "$OBJECTS"
    "$OMNISKY" train omni --recipe "$RECIPE" --sky "$TOKENS" --codecs "$OUT/codecs" --out "$OUT/omni" ${STEPS:+--steps "$STEPS"}
    # So that images find spectra; it takes 500 objects that have both.
    [ "$OBJECTS" -lt 1000 ] || "$OMNISKY" train head "$TOKENS" --model "$OUT/omni/model" --pairs 16000
fi
if [ "$OBJECTS" -ge 1000 ]; then  # objects that nothing was trained on tell how sure redshifts may be
    "$OMNISKY" train tokens "$OUT/unseen" --codecs "$OUT/omni/model" --objects 6000 --seed 99
    "$OMNISKY" train calibration "$OUT/unseen" --model "$OUT/omni/model"
fi
[ -n "${NO_APP:-}" ] || "$OMNISKY" demo --model "$OUT/omni/model"
