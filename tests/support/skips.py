"""What the end of a run says about skipped tests."""

import re
from collections import Counter


def skips_by_reason(reports: list) -> list[str]:
    """One line for each reason why tests were skipped, the most frequent first: "  12  there is no g++"."""
    reasons: Counter[str] = Counter()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ").partition("\n")[0]
        reasons[re.sub(r"could not import '(\w+)[\w.]*': .*", r"\1 is not installed", reason)] += 1
    return [f"{count:6}  {reason}" for reason, count in reasons.most_common()]
