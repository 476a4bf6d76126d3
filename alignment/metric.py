"""Where two metrics part: in one batch, or in putting batches together."""


def locate_metric(port_record, reference_record, port_batches, reference_batches):
    """Lines that say where two metrics part.

    Args:
        port_record, reference_record: {key: array of one accuracy, in per cent}; keys "acc_*" are
            computed from the same logits, keys "model_acc_*" from each side's own, keys
            "ranks_acc_*" from the same logits on several ranks.
        port_batches, reference_batches: [[accuracy by k] of each batch alone].
    """
    lines = []
    for key, reference in reference_record.items():
        different = [(a, b) for a, b in zip(port_record[key], reference) if a != b]
        if different:
            a, b = map(float, different[0])
            lines.append(f"First to part: {key} {a:.6g} | {b:.6g}")
            if abs(100 * a - b) < 1e-9 * b:
                lines.append("The port's is a hundredth of it: a fraction, not per cent")
            break
    if not lines:
        return ["All accuracies agree"]
    if lines[0].split()[3].startswith("model_"):
        return [
            *lines,
            "The metric agrees on the same logits: the mistake is in the model, step 01",
        ]
    if lines[0].split()[3].startswith("ranks_"):
        return [
            *lines,
            "One process gets it right: the mistake is in how images are dealt out to ranks (some "
            "twice, or none), or in how ranks are added up",
        ]
    if port_batches == reference_batches:
        lines.append(
            "On each batch alone both agree: the mistake is in putting batches together "
            "(the weight of the last one, or that it is left out)"
        )
    else:
        lines.append("They differ on one batch already: the mistake is in the metric itself (k)")
    return lines
