"""Teaching: training in stages, each a version that can be used; what it is worth, and which one becomes active."""

from fm3d_core.teaching.plan import Plan, Stage, make_plan
from fm3d_core.teaching.stages import teach
from fm3d_core.teaching.taught import Taught, TaughtVersion
from fm3d_core.teaching.verdict import Verdict, verdict

__all__ = ["Plan", "Stage", "Taught", "TaughtVersion", "Verdict", "make_plan", "teach", "verdict"]
