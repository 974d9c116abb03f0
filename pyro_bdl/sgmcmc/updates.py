r"""Update equations of stochastic-gradient samplers, as functions of tensors.

One function an equation, without Pyro, without state and without randomness of its own: it is handed the state, a
gradient g of the log joint density and standard normal numbers z, and gives the next state. All elements are treated
alike, so a tensor may hold one chain's parameters or those of many.

The step size e is the same thing in all of them: the squared time of a step, :math:`e = h^2`, in units of the squared
parameter, that of Welling & Teh (2011). Where others count in a learning rate :math:`\eta` of the log joint density and
a momentum :math:`\beta`, these are :math:`\eta = e/2` for Langevin dynamics, and :math:`\eta = (1 + \beta)\, e/2` with
the friction :math:`1 - \beta`.
"""

import math

import torch
from torch import Tensor


def langevin(
    position: Tensor,
    gradient: Tensor,
    noise: Tensor,
    *,
    step_size: float,
    temperature: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    r"""One Langevin update (Welling & Teh 2011, equation 4).

    .. math:: \theta' = \theta + \frac e2\, g + \sqrt{e T}\, z

    With a minibatch g is the gradient of the log prior plus N/B times that of the batch's log likelihood. For a normal
    target of precision P and the full gradient, theta' - mean = A (theta - mean) + noise with A = I - e/2 P, and the
    stationary covariance C solves C = A C A' + e T I.

    Args:
        position: theta.
        gradient: g, of the log joint density at theta.
        noise: z.
        step_size: e.
        temperature: T; the target becomes p(theta, data)^(1/T), and 0 leaves gradient ascent.
        out: a tensor for the result, for which the noise may be given up. Default: a new one.

    >>> langevin(torch.ones(2), torch.tensor([2.0, -4.0]), torch.zeros(2), step_size=0.1)
    tensor([1.1000, 0.8000])
    """
    moved = torch.add(position, noise, alpha=math.sqrt(step_size * temperature), out=out)
    return moved.add_(gradient, alpha=0.5 * step_size)


def preconditioned_langevin(
    position: Tensor,
    gradient: Tensor,
    noise: Tensor,
    preconditioner: Tensor,
    *,
    step_size: float,
    temperature: float = 1.0,
) -> Tensor:
    r"""One Langevin update with a step of its own for each parameter (Li, Chen, Carlson & Carin 2016, equation 4).

    .. math:: \theta' = \theta + \frac e2\, G g + \sqrt{e T G}\, z

    It has the law of `langevin` in the coordinates theta / sqrt(G), if G does not change. Where it depends on theta,
    the equation has one more term, the divergence of G, which is left out here as in the paper's experiments: the
    stationary law then is another one. So let G settle, and hold it.

    Args:
        position, gradient, noise, step_size, temperature: as for `langevin`; the noise is given up.
        preconditioner: G, positive.

    >>> one, four = torch.ones(1), torch.full((1,), 4.0)
    >>> preconditioned_langevin(one, -one, torch.zeros(1), four, step_size=0.1)
    tensor([0.8000])
    """
    moved = noise.mul_(preconditioner.sqrt()).mul_(math.sqrt(step_size * temperature)).add_(position)
    return moved.addcmul_(preconditioner, gradient, value=0.5 * step_size)


def rms_preconditioner(second_moment: Tensor, *, offset: float) -> Tensor:
    r""":math:`G = 1 / (\lambda + \sqrt V)` of Li et al. 2016, equation 5.

    Args:
        second_moment: V, a running mean of squared gradients.
        offset: lambda, positive: it bounds G where the gradient vanishes.

    >>> rms_preconditioner(torch.tensor([0.25, 0.0]), offset=0.5)
    tensor([1., 2.])
    """
    return second_moment.sqrt().add_(offset).reciprocal_()


def hamiltonian(
    position: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    noise: Tensor,
    *,
    step_size: float,
    friction: float,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""One update of Langevin dynamics with momentum (SGHMC; Chen, Fox & Guestrin 2014, equation 15).

    .. math::
        r' = (1 - \alpha)\, r + \Bigl(1 - \frac\alpha2\Bigr) h\, g + \sqrt{\alpha (2 - \alpha) T}\, z, \qquad
        \theta' = \theta + h\, r', \qquad h = \sqrt e

    It is their equation for v = h r with the learning rate (1 - alpha/2) e and the momentum 1 - alpha, without the
    correction for the gradients' noise. In this form the momentum is renewed in part between the two halves of a
    leapfrog's kick, where it has variance T; alpha = 1 is `langevin` with the same e; and on a normal target the
    variance in a direction of precision lambda is too large by 1 / (1 - e lambda / 4), whatever the friction.

    Args:
        position, gradient, noise, step_size, temperature: as for `langevin`; the noise is given up.
        momentum: r.
        friction: alpha, in (0, 1].

    Returns:
        theta' and r'.

    >>> one = torch.ones(1)
    >>> hamiltonian(one, one, -one, torch.zeros(1), step_size=0.01, friction=0.2)
    (tensor([1.0710]), tensor([0.7100]))
    """
    h = math.sqrt(step_size)
    moved = noise.mul_(math.sqrt(friction * (2 - friction) * temperature)).add_(momentum, alpha=1 - friction)
    moved.add_(gradient, alpha=(1 - friction / 2) * h)
    return torch.add(position, moved, alpha=h), moved


def nose_hoover(
    position: Tensor,
    momentum: Tensor,
    friction: Tensor,
    gradient: Tensor,
    noise: Tensor,
    *,
    step_size: float,
    diffusion: float,
    coupling: float,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One update with a thermostat (SGNHT; Ding, Fang, Babbush, Chen, Skeel & Neven 2014, equation 9).

    .. math::
        r' = (1 - \zeta)\, r + \Bigl(1 - \frac\zeta2\Bigr) h\, g + \sqrt{\alpha (2 - \alpha) T}\, z, \qquad
        \theta' = \theta + h\, r', \qquad
        \zeta' = \min\Bigl(\zeta + \kappa \Bigl(\frac1d \sum_i r_i'^2 - T\Bigr),\ 1 + (1 - \alpha)^2\Bigr)

    with :math:`h = \sqrt e`. The friction takes away whatever heat comes in, by the injected noise or by the
    gradients': both r' and, on a normal target, theta have the right variance, if the gradient's noise does not depend
    on theta. (The squared step over e is the temperature of theta: a harmonic mode of precision lambda has
    :math:`\lambda\, Var(\theta) = Var(r')`, for any step size.) Theirs is the limit of small frictions, with
    :math:`\kappa = e`, which is too slow for the small steps of a network, and they set no bound: there a chain that
    falls from far away, hot as it is, meets a friction beyond 2, which makes the momentum larger instead of smaller.
    `most_friction` takes out the most heat, which is that of gradients whose noise_ratio, e V / (4 T), is
    :math:`(1 - \alpha)^2 / (1 - (1 - \alpha)^2)`: 4.3 for alpha = 0.1. With more of it no friction keeps the
    temperature, and the chain is too hot.

    Args:
        position, momentum, gradient, noise, step_size, temperature: as for `hamiltonian`.
        friction: zeta, of the chain: of shape (1,), or (chains, 1).
        diffusion: alpha, that of the injected noise, in (0, 1]; without gradient noise zeta is alpha on average.
        coupling: kappa, positive and well below 1: in stationarity zeta fluctuates by sqrt(kappa / d).

    Returns:
        theta', r' and zeta'.

    >>> one = torch.ones(1)
    >>> step = dict(step_size=0.01, diffusion=0.2, coupling=0.1)
    >>> nose_hoover(one, one, torch.tensor([0.2]), -one, torch.zeros(1), **step)
    (tensor([1.0710]), tensor([0.7100]), tensor([0.1504]))
    """
    h = math.sqrt(step_size)
    moved = noise.mul_(math.sqrt(diffusion * (2 - diffusion) * temperature)).addcmul_(momentum, 1 - friction)
    moved.addcmul_(gradient, h * (1 - friction / 2))
    heat = moved.square().mean(-1, keepdim=True) - temperature
    held = torch.add(friction, heat, alpha=coupling).clamp_max_(most_friction(diffusion))
    return torch.add(position, moved, alpha=h), moved, held


def most_friction(diffusion: float) -> float:
    r"""The friction of a thermostat beyond which more of it is less cool: :math:`1 + (1 - \alpha)^2`.

    In stationarity the momentum's variance is T where :math:`1 - (1 - \zeta)^2 = \alpha (2 - \alpha)
    + (1 - \zeta/2)^2\, e V / T`, V that of the gradients; this is the zeta that allows the largest V.

    Args:
        diffusion: alpha.

    >>> round(most_friction(0.1), 2)
    1.81
    """
    return 1 + (1 - diffusion) ** 2


def log_acceptance(
    position: Tensor,
    gradient: Tensor,
    proposed: Tensor,
    gradient_there: Tensor,
    *,
    gain: Tensor | float,
    step_size: float,
    temperature: float = 1.0,
) -> Tensor:
    r"""The log of the Metropolis-Hastings ratio of a Langevin step (MALA; Roberts & Tweedie 1996).

    .. math::
        \frac1T \Bigl( \log\frac{p(\theta')}{p(\theta)} + \frac{|r - h g/2|^2 - |r + h g'/2|^2}{2} \Bigr), \qquad
        r = \frac{\theta' - \theta}h, \qquad h = \sqrt e

    which is the change of energy over a leapfrog step from the momentum r - h g / 2; so it also tells by how much a
    step with momentum errs.

    Args:
        position, gradient: theta and g, shape (..., parameters).
        proposed, gradient_there: theta' and its g'.
        gain: log p(theta') - log p(theta), shape (...).
        step_size, temperature: e and T, positive.

    Returns:
        Shape (...), above zero where the step leads uphill more than it errs.

    >>> x, y = torch.tensor([0.0]), torch.tensor([1.0])  # of a standard normal law
    >>> log_acceptance(x, -x, y, -y, gain=-0.5, step_size=0.1)
    tensor(-0.0125)
    """
    h = math.sqrt(step_size)
    r = (proposed - position) / h
    before = torch.add(r, gradient, alpha=-0.5 * h).square().sum(-1)
    after = r.add_(gradient_there, alpha=0.5 * h).square_().sum(-1)
    return (gain + 0.5 * (before - after)) / temperature


def probability(log_ratio: Tensor) -> Tensor:
    """min(1, ratio); 0 where the ratio is no number.

    >>> probability(torch.tensor([0.3, float("nan")]))
    tensor([1., 0.])
    """
    return log_ratio.nan_to_num(nan=-math.inf, posinf=math.inf).clamp_max(0.0).exp_()
