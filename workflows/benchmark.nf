/*
 * The five experiments of the MultiVI paper on the cells of a samplesheet, with every system that it compares.
 *
 *                         ┌─ MODEL: TRAIN ─ CALIBRATE ─ EMBED ─ IMPUTE, DIFFERENTIAL ─ COLLECT ──┐
 *   CELLS ─ mosaic ─ SPLIT ─ RIDGE, PCA_KNN, DEPTH, CEILING, COBOLT ──────────────────────────────┼─ SCORE ─ PAGE
 *                         ├─ SCVI_MULTIVI, TOTALVI, MOFA, WNN, MIDAS (the peers' environment) ───┤
 *                         └─ SEURAT_ACTIVITY, SEURAT_IMPUTED, SEURAT_WNN (R) ────────────────────┘
 *
 * A method that fails on a split gives a row that says so, never a lost run.
 */

include { BENCHMARK_SPLIT   } from '../modules/benchmark_split'
include { METHOD as RIDGE ; METHOD as PCA_KNN ; METHOD as DEPTH ; METHOD as CEILING ; METHOD as COBOLT } from '../modules/benchmark_method'
include { PEER as SCVI_MULTIVI ; PEER as TOTALVI ; PEER as MOFA ; PEER as WNN ; PEER as MIDAS } from '../modules/benchmark_peer'
include { SEURAT as SEURAT_ACTIVITY ; SEURAT as SEURAT_IMPUTED ; SEURAT as SEURAT_WNN } from '../modules/benchmark_seurat'
include { BENCHMARK_COLLECT } from '../modules/benchmark_collect'
include { BENCHMARK_SCORE   } from '../modules/benchmark_score'
include { BENCHMARK_PAGE    } from '../modules/benchmark_page'

include { chosen                                      } from '../modules/shell'
include { by_path ; path_or_none                      } from '../modules/channels'
include { contrast_of ; hidden_of ; of_ours ; runs_of ; units_of } from '../modules/runs'
include { bill_text ; versions_text ; write_info      } from '../modules/record'

workflow SPLITS {
    take:
    settings  // Map: every parameter, cast and checked
    ch_mosaic // channel: mosaic.h5mu (one)

    main:
    BENCHMARK_SPLIT(ch_mosaic.combine(channel.fromList(units_of(settings))), chosen(settings, ['labels', 'most_types']))
    ch_runs = BENCHMARK_SPLIT.out.tasks.flatten().flatMap { folder -> runs_of(folder, settings.methods) } // channel: [ run, folder of the split ]
    ch_ours = ch_runs.filter { run, _folder -> of_ours(run) }

    emit:
    runs      = ch_runs
    plan      = BENCHMARK_SPLIT.out.plan
    mosaics   = ch_ours.map { run, folder -> [run, folder.resolve('mosaic.h5mu')] }     // channel: [ run, mosaic.h5mu ]
    unseen    = ch_ours.flatMap { run, folder -> hidden_of(run, folder) }               // channel: [ run, modality, cells ]
    contrasts = ch_ours.filter { run, _folder -> run.target }.map { run, _folder -> [run, contrast_of(run)] } // channel: [ run, contrast ]
}

workflow BENCHMARK {
    take:
    settings     // Map: every parameter, cast and checked
    ch_mosaic    // channel: mosaic.h5mu (one)
    ch_runs      // channel: [ run, folder of the split ]
    ch_plan      // channel: plan.tsv (one a task of SPLIT)
    ch_embedding // channel: [ run, multivi.h5mu ] of ours
    ch_imputed   // channel: [ run, modality, zarr ]
    ch_tables    // channel: [ run, table ]
    ch_cost      // channel: [ run, *.resources.json ]

    main:
    dataset  = file(settings.input, glob: false).parent.name
    peer     = file("${projectDir}/python/multivi_nf/benchmark/peers/run.py", glob: false)
    seurat   = file("${projectDir}/python/multivi_nf/benchmark/peers/seurat.R", glob: false)
    genes    = path_or_none(settings.gtf ?: settings.tss)
    ch_whole = ch_mosaic.first() // value: mosaic.h5mu

    BENCHMARK_COLLECT(
        ch_embedding
            .join(ch_imputed.map { run, _modality, store -> [run, store] }.groupTuple(), remainder: true)
            .join(ch_tables, remainder: true)
            .join(ch_cost.groupTuple())
            .filter { _run, embedding, _stores, _table, _costs -> embedding }
            .map { run, embedding, stores, table, costs -> [run, embedding, (stores ?: []).sort { store -> store.name }, table ?: [], costs.sort { cost -> cost.name }] }
    )

    //
    // The others
    //
    ch_own    = ch_runs.combine(ch_whole) // channel: [ run, task, mosaic ]
    ch_others = ch_runs                    // channel: [ run, task ]
    RIDGE(ch_own.filter { run, _task, _mosaic -> run.method == 'ridge' })
    PCA_KNN(ch_own.filter { run, _task, _mosaic -> run.method == 'pca-knn' })
    DEPTH(ch_own.filter { run, _task, _mosaic -> run.method == 'depth' })
    CEILING(ch_own.filter { run, _task, _mosaic -> run.method == 'ceiling' })
    COBOLT(ch_own.filter { run, _task, _mosaic -> run.method == 'cobolt' })
    SCVI_MULTIVI(ch_others.filter { run, _task -> run.method == 'scvi-multivi' }, peer)
    TOTALVI(ch_others.filter { run, _task -> run.method == 'totalvi' }, peer)
    MOFA(ch_others.filter { run, _task -> run.method == 'mofa' }, peer)
    WNN(ch_others.filter { run, _task -> run.method == 'wnn' }, peer)
    MIDAS(ch_others.filter { run, _task -> run.method == 'midas' }, peer)
    SEURAT_ACTIVITY(ch_others.filter { run, _task -> run.method == 'seurat-activity' }, seurat, genes)
    SEURAT_IMPUTED(ch_others.filter { run, _task -> run.method == 'seurat-imputed' }, seurat, genes)
    SEURAT_WNN(ch_others.filter { run, _task -> run.method == 'seurat-wnn' }, seurat, genes)

    //
    // Scores and the page
    //
    ch_results = BENCHMARK_COLLECT.out.result.mix(
        RIDGE.out.result, PCA_KNN.out.result, DEPTH.out.result, CEILING.out.result, COBOLT.out.result,
        SCVI_MULTIVI.out.result, TOTALVI.out.result, MOFA.out.result, WNN.out.result, MIDAS.out.result,
        SEURAT_ACTIVITY.out.result, SEURAT_IMPUTED.out.result, SEURAT_WNN.out.result,
    ) // channel: [ run, result ]
    BENCHMARK_SCORE(ch_runs.join(ch_results).combine(ch_whole), dataset)
    BENCHMARK_PAGE(by_path(BENCHMARK_SCORE.out.scores), by_path(ch_plan), settings.methods, dataset)
    ch_told = channel.topic('versions').toList() // channel: [ [process, tool, version] ]
    ch_told.subscribe { triples -> write_info(settings, 'software_versions.yml', versions_text(triples)) }
    ch_told.subscribe { triples -> write_info(settings, 'sbom.cdx.json', bill_text(triples)) }

    emit:
    BENCHMARK_PAGE.out.folder // channel: benchmark/
}
