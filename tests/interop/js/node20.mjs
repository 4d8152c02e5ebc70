// js-libp2p 3 uses this and says that it wants Node 22; Node 20 lacks nothing else that it needs here.
Promise.withResolvers ??= function () {
  const deferred = {}
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}
