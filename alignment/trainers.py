"""What both trainers say and write alike, the port's and the reference's. No framework in here."""

__all__ = ["HEAD", "NEW_HEAD", "other_classes", "other_epochs"]

HEAD = "classifier.3"  # the layer whose width is the number of classes
NEW_HEAD = f"its last layer, {HEAD}, is initialised anew, all others are as in the file"


def other_classes(weights, trained_for, data, num_classes):
    """What is wrong where weights are for another number of classes than the data has."""
    return f"{weights} is of a model for {trained_for} classes, and {data} has {num_classes}"


def other_epochs(args, before, epoch, rates, decays=None):
    """[line] on what --epochs changes where a training is resumed that began with another number.

    Args:
        args: of the command line.
        before: --epochs until now.
        epoch: that is trained next, from 0.
        rates: the learning rate of that epoch by the schedule of `before`, and by that of now.
        decays: of the moving average before and now, or None.
    """
    lines = []
    if args.lr_scheduler == "cosineannealinglr":
        lines.append(
            f"--epochs is {args.epochs} and was {before}: the cosine now ends with epoch "
            f"{args.epochs - 1}; the learning rate of epoch {epoch} becomes {rates[1]:.6g}, and "
            f"would have been {rates[0]:.6g}"
        )
    else:
        lines.append(
            f"--epochs is {args.epochs} and was {before}: {args.lr_scheduler} goes on as it is, "
            f"with a learning rate of {rates[1]:.6g} in epoch {epoch}"
        )
    if decays:
        lines.append(
            f"the decay of the moving average follows --epochs: it becomes {decays[1]:.6g}, and "
            f"was {decays[0]:.6g}"
        )
    return lines
