/*
 * What every process gets under a set of profiles: Nextflow's own classes read the config and resolve the directives, cloud
 * executors included, whose plugins a machine without network cannot load. One start for all cases (a start costs seconds).
 *
 *   nextflow run tests/deploy/resolve.nf --plan plan.json --resolved resolved.json
 *
 * plan: {repository, processes: {NAME: [labels]}, cases: [{name, profiles, configs: [files], params: {}, attempt, statuses}]}
 * resolved: {case: {engine, scope, processes: {NAME: {directive: value}}}}
 */
workflow {
    def plan     = new groovy.json.JsonSlurper().parse(new java.io.File(params.plan.toString()))
    def resolved = plan.cases.collectEntries { item -> [item.name, resolve(plan, item)] }
    new java.io.File(params.resolved.toString()).text = groovy.json.JsonOutput.toJson(resolved)
}

def resolve(plan, item) {
    def files  = (["${plan.repository}/nextflow.config"] + (item.configs ?: [])).collect { file -> java.nio.file.Path.of(file.toString()) }
    def config = new nextflow.config.ConfigBuilder()
        .setBaseDir(java.nio.file.Path.of(plan.repository))
        .setCmdRun(new nextflow.cli.CmdRun(profile: item.profiles, params: item.params ?: [:]))
        .setUserConfigFiles(files)
        .build()
    def engines = ['docker', 'podman', 'singularity', 'apptainer', 'charliecloud']
    def engine  = engines.find { name -> config[name]?.enabled }
    def context = [
        params  : config.params,
        workflow: [containerEngine: engine, manifest: config.manifest, profile: item.profiles]
    ]
    def processes = plan.processes.collectEntries { name, labels -> [name, directives(config.process, name, labels, context, item)] }
    return [engine: engine, scope: engine ? config[engine].collectEntries { key, value -> [key, value.toString()] } : null, processes: processes]
}

def directives(scope, name, labels, context, item) {
    def attempt = item.attempt ?: 1
    def config = new nextflow.script.ProcessConfig([:])
    config.processName = name
    labels.each { label -> config.label(label) }
    config.applyConfig(scope, name, name, "REPROCESS:${name}".toString())
    def task = taskConfig(config, name, context, [attempt: attempt])
    return [
        executor        : task.executor,
        container       : task.container?.toString(),
        containerOptions: task.containerOptions?.toString(),
        clusterOptions  : task.clusterOptions?.toString(),
        accelerator     : task.accelerator ? [request: task.accelerator.request, type: task.accelerator.type] : null,
        queue           : task.queue?.toString(),
        cpus            : task.cpus,
        memory          : task.memory?.giga,
        hours           : task.time?.toHours(),
        array           : task.array,
        beforeScript    : task.beforeScript?.toString(),
        retried         : (item.statuses ?: []).findAll { status ->
            taskConfig(config, name, context, [attempt: attempt, exitStatus: status]).errorStrategy.toString() == 'RETRY'
        }
    ]
}

def taskConfig(config, name, context, properties) {
    def task = config.createTaskConfig()
    properties.each { key, value -> task[key] = value }
    task.process = "REPROCESS:${name}".toString()
    task.name    = name
    task.context = context + [task: task]
    return task
}
