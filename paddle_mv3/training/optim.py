"""Optimizers and weight decay as torchvision's references/classification/train.py sets them up."""

import math

import paddle
from paddle import _C_ops, nn
from paddle.optimizer import SGD, AdamW, Momentum, Optimizer

__all__ = ["OPTIMIZERS", "RMSProp", "create_optimizer", "weight_decay_groups"]

OPTIMIZERS = ("sgd", "sgd_nesterov", "rmsprop", "adamw")


class RMSProp(Optimizer):
    """torch.optim.RMSprop: epsilon is added to the root, momentum knows no learning rate.

        mean_square = rho * mean_square + (1 - rho) * grad ** 2
        momentum = momentum * momentum_buffer + grad / (sqrt(mean_square) + epsilon)
        parameter = parameter - learning_rate * momentum_buffer

    paddle.optimizer.RMSProp takes the root of (mean_square + epsilon), and its momentum buffer sums
    updates that are multiplied by the learning rate of their own step: with torchvision's recipe
    (rho 0.9, epsilon 0.0316, momentum 0.9) the first update is 36 % off.
    Tieleman & Hinton 2012, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf

    Args:
        learning_rate: float or paddle.optimizer.lr.LRScheduler.
        rho: share of mean_square that is kept; PyTorch's alpha.
        epsilon, momentum: as above.
        parameters: tensors, or groups of them, [{"params": [...], "weight_decay": 1e-5}, ...].
        weight_decay: of what no group says otherwise; float (L2: added to the gradient) or None.
        grad_clip: paddle.nn.ClipGrad...; with groups, Paddle clips each group by itself.
        multi_precision: keep float32 copies of float16 or bfloat16 parameters.

    Raises:
        ValueError: rho is not in [0, 1), epsilon or momentum is negative.
    """

    _mean_square_acc_str = "mean_square"
    _momentum_acc_str = "momentum"

    def __init__(
        self,
        learning_rate,
        rho=0.99,
        epsilon=1e-8,
        momentum=0.0,
        parameters=None,
        weight_decay=None,
        grad_clip=None,
        multi_precision=False,
        name=None,
    ):
        if not 0 <= rho < 1:
            raise ValueError(f"rho is {rho}: give a number in [0, 1)")
        for what, value in (("epsilon", epsilon), ("momentum", momentum)):
            if value < 0:
                raise ValueError(f"{what} is {value}: give a number that is not negative")
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        self._defaults = {"rho": rho, "epsilon": epsilon, "momentum": momentum}
        self._update_param_group({})
        self.type = "rmsprop"
        self._multi_precision = multi_precision
        self._constants = {}

    def _update_param_group(self, group):
        for name, value in self._defaults.items():
            setattr(self, f"_{name}", group.get(name, value))
        return group.get("params")

    def _create_accumulators(self, block, parameters):
        if isinstance(parameters, dict):
            parameters = parameters["params"]
        for parameter in parameters:
            if parameter.name not in self._already_create_accumulator:
                has_master = self._multi_precision and self._is_dtype_fp16_or_bf16(parameter.dtype)
                target = self._create_master_weight(parameter) if has_master else parameter
                self._add_accumulator(self._mean_square_acc_str, target)
                self._add_accumulator(self._momentum_acc_str, target)
                self._already_create_accumulator.add(parameter.name)

    def _create_regularization_of_grad(self, param, grad, regularization=None):
        # In float32, the base class takes the decay from the float32 copy of the parameter.
        if grad is not None and self._multi_precision and self._is_dtype_fp16_or_bf16(grad.dtype):
            self._create_master_weight(param)  # Paddle makes them group by group, later than this
            grad = grad.astype("float32")
        return super()._create_regularization_of_grad(param, grad, regularization)

    def _append_optimize_op(self, block, param_and_grad):
        if isinstance(param_and_grad, dict):
            param_and_grad = self._update_param_group(param_and_grad)
        parameter, gradient = param_and_grad
        mean_square = self._get_accumulator_master(self._mean_square_acc_str, parameter)
        buffer = self._get_accumulator_master(self._momentum_acc_str, parameter)
        target = self._master_weights.get(parameter.name, parameter)

        # Adagrad's kernel adds the square of the gradient to a sum, and takes a step of
        # gradient / (root of the sum + epsilon): here a step of the momentum buffer, up. For the
        # sum to be the mean square it is counted in units of 1 - rho while the kernel runs.
        # Written out, the same takes over twice as long as Paddle's own RMSProp.
        unit = 1 - self._rho
        root = math.sqrt(unit)
        _C_ops.scale_(buffer, self._momentum, 0.0, True)
        _C_ops.scale_(mean_square, self._rho / unit, 0.0, True)
        step = self._constant(-1 / root, target.dtype)
        _C_ops.adagrad_(buffer, gradient, mean_square, step, None, self._epsilon / root, False)
        _C_ops.scale_(mean_square, unit, 0.0, True)
        _C_ops.sgd_(target, self._create_param_lr(param_and_grad), buffer, None, False)
        if target is not parameter:
            paddle.assign(target.astype(parameter.dtype), parameter)

    def _constant(self, value, dtype):
        key = value, dtype
        if key not in self._constants:
            self._constants[key] = paddle.to_tensor(value, dtype=dtype)
        return self._constants[key]


def create_optimizer(opt, parameters, lr, momentum=0.9, weight_decay=1e-4, grad_clip=None):
    """The optimizer that torchvision's `--opt` means.

    Args:
        opt: "sgd", "sgd_nesterov", "rmsprop" or "adamw".
        parameters: tensors or groups, as `weight_decay_groups` makes them.
        lr: float or LRScheduler.
        momentum: not for adamw. 0 for plain SGD.
        weight_decay: of parameters without a group's own.

    Raises:
        ValueError: another `opt`.
    """
    # Paddle's groups leave their decay on the parameters, where another optimizer would find it.
    for group in parameters:
        for parameter in group["params"] if isinstance(group, dict) else [group]:
            parameter.regularizer = None
    common = {"parameters": parameters, "weight_decay": weight_decay, "grad_clip": grad_clip}
    if opt in ("sgd", "sgd_nesterov"):
        if not momentum:
            return SGD(lr, **common)
        return Momentum(lr, momentum, use_nesterov=opt == "sgd_nesterov", **common)
    if opt == "rmsprop":
        return RMSProp(lr, rho=0.9, epsilon=0.0316, momentum=momentum, **common)
    if opt == "adamw":
        return AdamW(lr, **common)
    raise ValueError(f"no optimizer {opt!r}: choose from {', '.join(OPTIMIZERS)}")


NORMS = (
    nn.layer.norm._BatchNormBase,
    nn.layer.norm._InstanceNormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


def weight_decay_groups(model, weight_decay, norm_weight_decay=None, bias_weight_decay=None):
    """Parameter groups with their own L2 decay; torchvision's references `set_weight_decay`.

    Args:
        model: a Layer. Each of its trained parameters is in one group.
        weight_decay: of all that has no decay of its own.
        norm_weight_decay: of the scales and shifts of normalisation layers.
        bias_weight_decay: of what is named `bias`, in normalisation layers too. None, here and
            above: no group of its own.

    Returns:
        [{"params": [Tensor], "weight_decay": float}]
    """
    decays = {"other": weight_decay, "norm": norm_weight_decay, "bias": bias_weight_decay}
    groups = {kind: [] for kind in decays}
    for layer in model.sublayers(include_self=True):
        for name, parameter in layer._parameters.items():
            # Paddle's batch norm statistics are parameters that are not trained.
            if parameter is None or parameter.stop_gradient:
                continue
            kind = "other"
            if name == "bias" and bias_weight_decay is not None:
                kind = "bias"
            elif isinstance(layer, NORMS) and norm_weight_decay is not None:
                kind = "norm"
            groups[kind].append(parameter)
    return [
        {"params": parameters, "weight_decay": float(decays[kind])}
        for kind, parameters in groups.items()
        if parameters
    ]
