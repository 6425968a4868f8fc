"""The built-in tasks: five small MuJoCo worlds whose episodes return between 0 and 1000."""

PHYSICS_STEPS = 4  # per control step; each is 0.01 s, so that control runs at 25 Hz
CONTROL_STEPS = 250  # per episode: 10 s, 1000 physics steps
