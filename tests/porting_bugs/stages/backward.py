"""Bugs that 05_test_backward.py finds: gradients, dropout, statistics, optimizers, schedules."""

import paddle
from paddle import nn

import paddle_mv3
from paddle_mv3 import model

from . import API, TRAIN, bug, built, convolved, topic

topic("normalisation")


@bug(
    "05",
    "batch norm momentum copied from PyTorch",
    ["momentum 0.01 | 0.99", "running statistic"],
    "training goes well, evaluation is bad; all eval-mode checks are green",
    "Paddle's momentum is the share that is kept, PyTorch's the share that is added",
    "momentum = 1 - PyTorch's",
    "https://github.com/PaddlePaddle/Paddle/issues/32810",
)
def _(patch):
    patch(model, "batch_norm", lambda c: model.BatchNorm2D(c, momentum=0.01, epsilon=0.001))


@bug(
    "05",
    "batch norm frozen",
    ["frozen True | False", "features.0.1"],
    "training stalls or diverges",
    "use_global_stats=True, which looks like track_running_stats=True and is its opposite",
    "leave use_global_stats at None",
    "https://github.com/PaddlePaddle/docs/pull/6125",
)
def _(patch):
    norm = model.batch_norm

    def frozen(channels):
        layer = norm(channels)
        layer._use_global_stats = True
        return layer

    patch(model, "batch_norm", frozen)


@bug(
    "05",
    "running variance of the biased batch variance",
    [
        "running statistic features.0.1._variance",
        "biased variance of the batch (divided by n = 9216)",
    ],
    "evaluation a little off with small batches",
    "Paddle's CPU kernel divides by n, PyTorch by n - 1",
    "paddle_mv3.norm.BatchNorm2D",
)
def _(patch):
    patch(model, "BatchNorm2D", nn.BatchNorm2D)


@bug(
    "05",
    "synchronised batch norm that never uses the running statistics",
    ["batch norm", "synchronised, eval mode"],
    "evaluation depends on the batch, but only with --sync-bn",
    "the synchronised path is taken before it is asked whether the layer trains",
    "running statistics in eval mode, whatever sync is",
)
def _(patch):
    forward = model.BatchNorm2D.forward

    def always(self, x):
        return self._forward_over_ranks(x) if self.sync else forward(self, x)

    patch(model.BatchNorm2D, "forward", always)


topic("dropout")


@bug(
    "05",
    "dropout with the share that is kept",
    ["p 0.8 | 0.2", "dropout classifier.2: drops 0."],
    "training is too strongly regularised",
    "0.8 was taken for the rate",
    "p is the share that is dropped",
    API + "nn/Dropout_en.html",
)
def _(patch):
    built(patch, lambda net: net.classifier[2].p and setattr(net.classifier[2], "p", 0.8))


@bug(
    "05",
    "dropout scaled at inference in place of training",
    ["dropout classifier.2: scales by 1 | 1.25"],
    "evaluation off by 1 - p",
    "mode='downscale_in_infer' is Paddle's old default",
    "mode='upscale_in_train'",
    API + "nn/Dropout_en.html",
)
def _(patch):
    built(patch, lambda net: setattr(net.classifier[2], "mode", "downscale_in_infer"))


@bug(
    "05",
    "dropout left out",
    ["dropout classifier.2: drops 0.000 | 0.2"],
    "training overfits",
    "a layer without weights is easily missed",
    "Dropout(0.2) before the last layer",
)
def _(patch):
    convolved(patch, "classifier.2", lambda layer, forward, x: x)


@bug(
    "05",
    "a branch cut off from the gradient",
    ["gradient features.11.block.2.fc2.bias: no gradient reaches features.11.block.2.fc2"],
    "training is slower; forward checks are green",
    "a detach() left over from debugging",
    "no detach in the gate",
)
def _(patch):
    def forward(self, x):
        gate = self.activation(self.fc1(self.avgpool(x)))
        return x * self.scale_activation(self.fc2(gate)).detach()

    patch(model.SqueezeExcitation, "forward", forward)


@bug(
    "05",
    "a layer that is not trained",
    ["gradient features.0.0.weight: frozen in the port", "weight stop_gradient=True"],
    "its weights never change",
    "stop_gradient=True, the opposite of requires_grad=True",
    "stop_gradient=False",
)
def _(patch):
    def change(net):
        net.features[0][0].weight.stop_gradient = True

    built(patch, change)


topic("loss")


@bug(
    "05",
    "loss halved",
    ["0.5 times", "The mistake is in the loss: mean or sum, a factor"],
    "training as with half the learning rate",
    "a loss that is averaged over two heads, of which one is left",
    "the loss as the reference has it",
)
def _(patch):
    compute = nn.CrossEntropyLoss.forward
    patch(nn.CrossEntropyLoss, "forward", lambda self, x, y: compute(self, x, y) / 2)


topic("optimizer, schedule")


def momentum(patch, **changed):
    original = paddle.optimizer.Momentum

    def build(learning_rate, m, parameters, **arguments):
        arguments = {"momentum": m, "parameters": parameters, **arguments, **changed}
        return original(learning_rate, **arguments)

    patch(paddle.optimizer, "Momentum", build)


@bug(
    "05",
    "no momentum",
    ["momentum 0.0 | 0.9", "update"],
    "training slower",
    "paddle.optimizer.SGD has none, torch.optim.SGD has",
    "paddle.optimizer.Momentum",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    momentum(patch, momentum=0.0)


@bug(
    "05",
    "SGD for SGD with momentum",
    ["optimizer: SGD | SGD with momentum", "update"],
    "training slower",
    "the name is the same, the argument momentum is not there",
    "paddle.optimizer.Momentum",
    API + "optimizer/SGD_en.html",
)
def _(patch):
    patch(
        paddle.optimizer,
        "Momentum",
        lambda lr, m, parameters: paddle.optimizer.SGD(lr, parameters=parameters),
    )


@bug(
    "05",
    "Nesterov momentum",
    ["nesterov True | False", "update"],
    "curves differ a little",
    "use_nesterov",
    "use_nesterov=False",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    momentum(patch, use_nesterov=True)


@bug(
    "05",
    "weight decay that the reference has not",
    ["weight_decay 0.0001 | 0", "update"],
    "no loss of the first iterations shows it",
    "a default of the project's optimizer builder",
    "weight_decay=None",
)
def _(patch):
    momentum(patch, weight_decay=1e-4)


@bug(
    "05",
    "gradients clipped",
    ["gradient clipping", "update"],
    "training slower at the beginning",
    "a grad_clip from another recipe",
    "grad_clip=None",
)
def _(patch):
    momentum(patch, grad_clip=nn.ClipGradByValue(1e-3))


@bug(
    "05",
    "the classifier's parameters not given to the optimizer",
    ["update classifier.0.weight"],
    "the head is not trained",
    "parameters of one part of the model",
    "model.parameters()",
)
def _(patch):
    original = paddle.optimizer.Momentum

    def build(learning_rate, m, parameters):
        return original(learning_rate, m, parameters=parameters[:-4])

    patch(paddle.optimizer, "Momentum", build)


@bug(
    "05",
    "gradients not cleared",
    ["are the gradients cleared", "gradient"],
    "training diverges",
    "clear_grad() is missing; both frameworks add gradients up",
    "optimizer.clear_grad() in each iteration",
)
def _(patch):
    patch(paddle.optimizer.Momentum, "clear_grad", lambda self: None)


@bug(
    "05",
    "learning rate ten times too large",
    ["learning rate 0.01 | 0.001"],
    "training diverges or not",
    "scaled for another batch size",
    "the reference's",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(10 * lr, **k))


@bug(
    "05",
    "schedule that never steps",
    ["learning rate 0.001 | 0.0005"],
    "training never settles",
    "Paddle's optimizer does not step its schedule",
    "scheduler.step() after each iteration or epoch",
)
def _(patch):
    patch(paddle.optimizer.lr.StepDecay, "get_lr", lambda self: self.base_lr)


@bug(
    "05",
    "schedule one step late",
    ["learning rate 0.001 | 0.0005"],
    "curves shifted by a step",
    "stepped before the first iteration on one side, after it on the other",
    "step after the iteration",
)
def _(patch):
    patch(
        paddle.optimizer.lr.StepDecay,
        "get_lr",
        lambda self: self.base_lr * self.gamma ** max(0, self.last_epoch - 1),
    )


@bug(
    "05",
    "another gamma",
    ["gamma 0.1 | 0.5", "learning rate"],
    "training settles too early",
    "Paddle's and PyTorch's default is 0.1",
    "gamma of the recipe",
    API + "optimizer/lr/StepDecay_en.html",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(lr, **{**k, "gamma": 0.1}))


@bug(
    "05",
    "schedule stepped by the epoch where the reference steps by the iteration",
    ["learning rate 0.001 | 0.0005", "step_size 10 | 1"],
    "training never settles",
    "step_size counts what step() is called for",
    "the same unit on both sides",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(lr, **{**k, "step_size": 10}))


topic("recipe")


def optimizer(patch, name, build):
    """`build(learning_rate, groups, momentum, weight_decay)` stands for one optimizer."""
    original = paddle_mv3.create_optimizer

    def create_optimizer(opt, groups, lr, momentum, weight_decay):
        if opt == name:
            return build(lr, groups, momentum, weight_decay)
        return original(opt, groups, lr, momentum, weight_decay)

    patch(paddle_mv3, "create_optimizer", create_optimizer)


@bug(
    "05",
    "Paddle's RMSProp for PyTorch's",
    ["optimizer rmsprop, step 0: update"],
    "the first update is a third off; losses run apart",
    "epsilon stands inside the root, the learning rate inside the momentum",
    "paddle_mv3.RMSProp",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle.optimizer.RMSProp(
            lr, rho=0.9, epsilon=0.0316, momentum=momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "RMSprop with the default epsilon",
    ["optimizer rmsprop, step 0: update", "epsilon 1e-08 | 0.0316"],
    "updates many times too large where gradients are small",
    "the recipe's 0.0316 is not the default, 1e-8",
    "epsilon=0.0316, rho=0.9",
    "https://pytorch.org/docs/stable/generated/torch.optim.RMSprop.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle_mv3.RMSProp(
            lr, rho=0.9, momentum=momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "learning rate inside the momentum buffer",
    ["optimizer rmsprop, step 0: optimizer state"],
    "right as long as the learning rate stays; wrong after each step of the schedule",
    "Paddle's RMSProp and TensorFlow's sum up updates, PyTorch's sums up directions",
    "multiply by the learning rate when the weights are changed",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    class Folded(paddle_mv3.RMSProp):
        def _append_optimize_op(self, block, param_and_grad):
            super()._append_optimize_op(block, param_and_grad)
            parameter = param_and_grad["params"][0]
            buffer = self._get_accumulator_master("momentum", parameter)
            buffer.scale_(self.get_lr())

    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: Folded(
            lr, 0.9, 0.0316, momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "Adam with L2 for AdamW",
    ["optimizer adamw, step 0: update"],
    "weights decay too little where gradients are large",
    "AdamW takes the decay off the weights, not through the gradient",
    "paddle.optimizer.AdamW",
    "https://arxiv.org/abs/1711.05101",
)
def _(patch):
    optimizer(
        patch,
        "adamw",
        lambda lr, groups, momentum, decay: paddle.optimizer.Adam(
            lr, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "Nesterov's momentum left out",
    ["optimizer sgd_nesterov, step 0: update"],
    "slower convergence",
    "use_nesterov is off by default",
    "use_nesterov=True",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    optimizer(
        patch,
        "sgd_nesterov",
        lambda lr, groups, momentum, decay: paddle.optimizer.Momentum(lr, momentum, groups),
    )


@bug(
    "05",
    "weight decay on batch norm",
    ["of norms 0.0", "weight decay features.0.1.weight 0.01 | 0.0"],
    "some tenths of a per cent of accuracy",
    "one weight decay for all parameters",
    "weight_decay_groups(model, decay, norm_weight_decay=0.0)",
    "https://arxiv.org/abs/1812.01187",
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups
    patch(
        paddle_mv3,
        "weight_decay_groups",
        lambda net, decay, norm, bias: groups(net, decay, None, bias),
    )


@bug(
    "05",
    "shifts of batch norm not counted as biases",
    ["of biases 0.0", "weight decay features.0.1.bias 0.01 | 0.0"],
    "--bias-weight-decay does less than it should",
    "biases of convolutions and linear layers only",
    "all parameters named bias",
)
def _(patch):
    def weight_decay_groups(net, decay, norm=None, bias=None):
        groups = {}
        for layer in net.sublayers():
            for name, parameter in layer._parameters.items():
                if parameter is None or parameter.stop_gradient:
                    continue
                is_norm = isinstance(layer, nn.BatchNorm2D)
                own = norm if is_norm else bias if name == "bias" else None
                groups.setdefault(decay if own is None else own, []).append(parameter)
        return [{"params": params, "weight_decay": float(d)} for d, params in groups.items()]

    patch(paddle_mv3, "weight_decay_groups", weight_decay_groups)


def schedule(patch, **changed):
    class Changed(paddle_mv3.WarmupSchedule):
        pass

    for name, value in changed.items():
        setattr(Changed, name, value)
    patch(paddle_mv3, "WarmupSchedule", Changed)


@bug(
    "05",
    "warm-up from 0",
    ["with linear warm-up, epoch 0: learning rate 0.0 | 0.00064"],
    "the first epoch learns nothing",
    "paddle.optimizer.lr.LinearWarmup starts at start_lr=0",
    "start at lr * lr_warmup_decay",
    API + "optimizer/lr/LinearWarmup_en.html",
)
def _(patch):
    schedule(patch, _warm_up=lambda self, _, epoch: self.base_lr * epoch / self.warmup_epochs)


@bug(
    "05",
    "a cosine over all epochs, warm-up included",
    ["cosineannealinglr with linear warm-up, epoch"],
    "the learning rate does not reach its minimum",
    "T_max is the number of epochs after warm-up",
    "T_max=epochs - lr_warmup_epochs",
    API + "optimizer/lr/CosineAnnealingDecay_en.html",
)
def _(patch):
    init = paddle_mv3.WarmupSchedule.__init__

    def changed(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.decay_epochs += self.warmup_epochs

    schedule(patch, __init__=changed)


@bug(
    "05",
    "steps counted from the end of warm-up as from the start",
    ["steplr with linear warm-up, epoch 6: learning rate"],
    "the learning rate falls in the wrong epoch",
    "SequentialLR starts the second schedule at its own epoch 0",
    "epoch - lr_warmup_epochs",
    "https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.SequentialLR.html",
)
def _(patch):
    following = paddle_mv3.WarmupSchedule._next

    def _next(self, epoch):
        after_warmup = epoch > self.warmup_epochs > 0 and self.lr_scheduler == "steplr"
        if not after_warmup:
            return following(self, epoch)
        return self._rates[-1] * (1 if epoch % self.lr_step_size else self.lr_gamma)

    schedule(patch, _next=_next)


@bug(
    "05",
    "each gradient clipped by its own norm",
    ["clipped to the norm 1: clipped gradient"],
    "gradients change direction",
    "paddle.nn.ClipGradByNorm is for each tensor by itself",
    "clip_grad_norm_, or ClipGradByGlobalNorm without groups",
    API + "nn/ClipGradByNorm_en.html",
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_
    patch(paddle_mv3, "clip_grad_norm_", lambda tensors, norm: [clip([x], norm) for x in tensors])


@bug(
    "05",
    "running statistics left out of the moving average",
    ["moving average", "._variance"],
    "the averaged model is worse than the last one in eval mode",
    "named_parameters() of a port that keeps statistics as buffers",
    "average all of state_dict()",
)
def _(patch):
    class WithoutStatistics(paddle_mv3.ExponentialMovingAverage):
        def update(self, net):
            kept = {n: x.numpy() for n, x in self.module.state_dict().items() if "._" in n}
            super().update(net)
            for name, tensor in self.module.state_dict().items():
                if name in kept:
                    tensor.set_value(kept[name])

    patch(paddle_mv3, "ExponentialMovingAverage", WithoutStatistics)


@bug(
    "05",
    "moving average that begins at the initial weights",
    ["update 0: moving average"],
    "the average drags random weights along",
    "the first update has to copy, as each does during warm-up",
    "copy while n_averaged is 0",
    "https://pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema",
)
def _(patch):
    class NeverCopies(paddle_mv3.ExponentialMovingAverage):
        def update(self, net):
            self.n_averaged = max(1, self.n_averaged)
            super().update(net)

    patch(paddle_mv3, "ExponentialMovingAverage", NeverCopies)


@bug(
    "05",
    "decay of the moving average not adjusted",
    ["decay 0.9999, batch 128, 8 ranks", "moving average 0.9999 | "],
    "the average lags behind by many epochs",
    "the flag's decay is for one image and epoch, not for one update",
    "1 - min(1, (1 - decay) * world_size * batch_size * steps / epochs)",
)
def _(patch):
    patch(paddle_mv3, "adjusted_decay", lambda decay, *rest: decay)


@bug(
    "05",
    "an argument with another default",
    ["WarmupSchedule: default argument lr_step_size 2 | 30", "where none is given"],
    "two commands that look the same train with different schedules",
    "the default was taken from the recipe at hand, not from the reference",
    "the reference's default: 30 epochs from step to step",
    "https://github.com/pytorch/vision/blob/main/references/classification/train.py",
)
def _(patch):
    init = paddle_mv3.WarmupSchedule.__init__
    *before, step_size, gamma, lr_min = init.__defaults__
    assert step_size == 30
    patch(init, "__defaults__", (*before, 2, gamma, lr_min))


@bug(
    "05",
    "RMSprop's alpha left at Paddle's default",
    ["optimizer rmsprop, step 0: update", "rho 0.95 | alpha 0.9"],
    "updates too large",
    "PyTorch's alpha is Paddle's rho, and each has a default of its own",
    "rho=0.9",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle_mv3.RMSProp(
            lr,
            rho=0.95,
            epsilon=0.0316,
            momentum=momentum,
            parameters=groups,
            weight_decay=decay,
        ),
    )


@bug(
    "05",
    "scales and shifts of batch norm in no parameter group",
    ["68 parameters are in no group: never updated"],
    "they keep their initial values",
    "groups were made for convolutions and linear layers only",
    "each parameter in one group",
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups

    def without_norms(net, *decays):
        norms = {
            id(parameter)
            for layer in net.sublayers()
            if isinstance(layer, nn.BatchNorm2D)
            for parameter in layer.parameters()
        }
        return [
            {**group, "params": [p for p in group["params"] if id(p) not in norms]}
            for group in groups(net, *decays)
        ]

    patch(paddle_mv3, "weight_decay_groups", without_norms)


@bug(
    "05",
    "RMSprop's epsilon written down",
    ["RMSProp(learning_rate=0.01, rho=0.99, epsilon=1e-08", "update"],
    "only a recipe with another epsilon shows it",
    "torchvision's 0.0316 where the argument belongs",
    "the argument",
    TRAIN,
)
def _(patch):
    init = paddle_mv3.RMSProp.__init__

    def fixed(self, *args, **kwargs):
        init(self, *args, **{**kwargs, "epsilon": 0.0316})

    patch(paddle_mv3.RMSProp, "__init__", fixed)


@bug(
    "05",
    "cosine that ends an epoch late",
    ["schedule cosineannealinglr", "learning rate"],
    "the last epochs have another rate",
    "the epochs of warm-up were not taken off the period",
    "epochs - lr_warmup_epochs",
    TRAIN,
)
def _(patch):
    init = paddle_mv3.WarmupSchedule.__init__

    def whole(self, lr, *args, **kwargs):
        init(self, lr, *args, **kwargs)
        if self.warmup_epochs == kwargs["epochs"] - 1:  # as long as can be
            self.decay_epochs = kwargs["epochs"]

    patch(paddle_mv3.WarmupSchedule, "__init__", whole)


@bug(
    "05",
    "gradients clipped to 1, whatever is asked for",
    ["clipped to the norm 0.1", "clipped gradient"],
    "steps of another length where a recipe has another norm",
    "a constant in place of the flag",
    "the flag's value",
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_
    patch(paddle_mv3, "clip_grad_norm_", lambda parameters, norm: clip(parameters, 1.0))


topic("normalisation")


@bug(
    "05",
    "one value for each channel, and no word",
    [
        "case that differs: train mode, 1x3x1x1",
        "outcome no error | ValueError: Expected more than 1 value per channel",
    ],
    "a last batch of one small image sets the running variance towards 0",
    "Paddle's batch norm takes one value for each channel, with the variance 0",
    "refuse, as PyTorch does",
    "https://pytorch.org/docs/stable/generated/torch.nn.functional.batch_norm.html",
)
def _(patch):
    forward = model.BatchNorm2D.forward

    def patient(self, x):
        if x.size == x.shape[1]:
            return nn.BatchNorm2D.forward(self, x)
        return forward(self, x)

    patch(model.BatchNorm2D, "forward", patient)
