"""Training ECG-JEPA through Accelerate; runs from a checkout."""

import os

# Read when torch is loaded. Threads that wait for each other asleep, not spinning, cost an idle CPU a seventh of its
# speed and a busy one (another job on the same cores) nearly nothing, where spinning made steps 60 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
